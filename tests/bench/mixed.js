// A Node server whose requests differ (burn.js); it knows nothing of clusters.
//
//     node mixed.js PORT
const http = require('node:http');

const burn = require('./burn.js');

const server = http.createServer((request, response) => {
  burn(request.url);
  response.setHeader('X-Worker', process.pid);
  response.end(`pid ${process.pid}\n`);
});
server.keepAliveTimeout = 60_000;  // long-lived connections are not to end by themselves
const port = Number(process.argv[2]);
server.listen(port, () => console.log(`listening on port ${port}`));
