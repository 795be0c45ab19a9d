// The same as mixed.js with Express.
//
//     node express.js PORT
const express = require('express');

const burn = require('./burn.js');

const app = express();
app.use((request, response) => {
  burn(request.url);
  response.set('X-Worker', process.pid).send(`pid ${process.pid}\n`);
});
const port = Number(process.argv[2]);
const server = app.listen(port, () => console.log(`listening on port ${port}`));
server.keepAliveTimeout = 60_000;
