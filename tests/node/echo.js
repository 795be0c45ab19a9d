// A Node program that sends every message back, and answers HTTP.
const http = require('node:http');

process.on('message', (message) => process.send(message));

http.createServer((request, response) => {
  response.end(`pid ${process.pid} instance ${process.env.NODE_APP_INSTANCE}\n`);
}).listen(8080);
