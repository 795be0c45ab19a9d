// An Express app with a health check that can be made to fail.
const app = require('express')();
let isSick = false;
const me = () => `pid ${process.pid} instance ${process.env.NODE_APP_INSTANCE}\n`;
app.get('/', (request, response) => response.send(me()));
app.get('/wait', (request, response) => setTimeout(() => response.send(me()), 300));
app.get('/health', (request, response) => response.status(isSick ? 503 : 200).send(me()));
app.get('/sick', (request, response) => {
  isSick = true;
  response.send(me());
});
app.listen(8080);
