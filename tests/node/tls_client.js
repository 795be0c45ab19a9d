// Connects five times with the ticket of the first time, and prints each answer and whether the
// server took the ticket.
const tls = require('node:tls');

let session;

function connect(left) {
  if (left === 0) return;
  const socket = tls.connect({ port: 8443, session, rejectUnauthorized: false });
  let answer = '';
  let reused = false;
  socket.on('secureConnect', () => { reused = socket.isSessionReused(); });
  socket.on('session', (ticket) => { session ??= ticket; });
  socket.on('data', (data) => { answer += data; });
  socket.on('close', () => {
    console.log(`${reused ? 'resumed' : 'new'} ${answer.trim()}`);
    connect(left - 1);
  });
}

connect(5);
