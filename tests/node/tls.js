// A TLS server as it is written for one process: `node tls.js KEY CERTIFICATE`.
const fs = require('node:fs');
const tls = require('node:tls');

const options = { key: fs.readFileSync(process.argv[2]), cert: fs.readFileSync(process.argv[3]) };
tls.createServer(options, (socket) => {
  socket.on('error', () => {});
  socket.end(`pid ${process.pid} instance ${process.env.NODE_APP_INSTANCE}\n`);
}).listen(8443);
