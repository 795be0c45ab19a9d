// An Express program that uses what Node's cluster module gives a worker; each path tries one thing.
const cluster = require('node:cluster');
const express = require('express');

const app = express();

app.get('/', (request, response) => {
  response.send(`pid ${process.pid} instance ${process.env.NODE_APP_INSTANCE}\n`);
});

app.get('/cluster', (request, response) => {
  response.json({
    version: process.version,
    isWorker: cluster.isWorker,
    isPrimary: cluster.isPrimary,
    id: cluster.worker.id,
    connected: cluster.worker.isConnected(),
    environment: Number(process.env.DROVER_WORKER_ID),
    leaked: Object.keys(process.env).filter((name) => name.startsWith('NODE_UNIQUE')),
  });
});

app.get('/send', (request, response) => {
  process.send({ from: cluster.worker.id, text: 'grüße', list: [1, 2.5, null] });
  response.send('sent\n');
});

app.get('/disconnect', (request, response) => {
  response.on('close', () => cluster.worker.disconnect());
  response.send('leaving\n');
});

app.get('/until-disconnect', (request, response) => {
  process.send('waiting');
  const timer = setInterval(() => {
    if (!cluster.worker.exitedAfterDisconnect) return;
    clearInterval(timer);
    response.send('told to disconnect\n');
  }, 5);
});

app.get('/throw', (request, response) => {
  response.on('close', () => setImmediate(() => {
    throw new Error('thrown on purpose');
  }));
  response.send('throwing\n');
});

app.get('/listen-again', (request, response) => {
  response.send('closing\n');
  server.close(() => {
    server = app.listen(8080);
  });
});

process.on('message', (message) => process.send({ got: message }));

process.on('exit', (code) => {
  console.log(`exit ${code}, exitedAfterDisconnect ${cluster.worker.exitedAfterDisconnect}`);
});

let server = app.listen(8080);
