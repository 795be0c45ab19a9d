// The Express program of every beginner: it knows nothing of clusters.
const express = require('express');

const app = express();

app.get('/', (request, response) => {
  response.send(`pid ${process.pid} instance ${process.env.NODE_APP_INSTANCE}\n`);
});

app.listen(8080);
