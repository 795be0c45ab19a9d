// The cluster program of every tutorial, as it is: under drover it finds itself a worker.
const cluster = require('node:cluster');
const express = require('express');

if (cluster.isPrimary) {
  console.log(`Primary ${process.pid} is running`);
  for (let i = 0; i < 4; i++) cluster.fork();
  cluster.on('exit', (worker) => {
    console.log(`worker ${worker.process.pid} died`);
    cluster.fork();
  });
} else {
  const app = express();
  app.get('/', (request, response) => {
    response.send(`pid ${process.pid} instance ${process.env.NODE_APP_INSTANCE}\n`);
  });
  app.listen(8080);
  console.log(`Worker ${process.pid} started`);
}
