// A Node server whose requests differ: /light answers at once, /heavy uses 20 ms of CPU time first,
// and nobody else is served by that process meanwhile. Any other path is light.
//
//     node mixed.js PORT            one process; knows nothing of clusters
//     node mixed.js PORT WORKERS    Node's own cluster, to compare with; NODE_CLUSTER_SCHED_POLICY
//                                   (rr or none) says who hands out the connections
const cluster = require('node:cluster');
const http = require('node:http');

const HEAVY_US = 20_000;
const [port, workers] = process.argv.slice(2).map(Number);

function burn() {
  const start = process.cpuUsage();
  let used;
  do {
    used = process.cpuUsage(start);
  } while (used.user + used.system < HEAVY_US);
}

function answer(request, response) {
  if (request.url.startsWith('/heavy')) burn();
  response.setHeader('X-Worker', process.pid);
  response.end(`pid ${process.pid}\n`);
}

if (workers && cluster.isPrimary) {
  for (let i = 0; i < workers; i++) cluster.fork();
  process.on('SIGTERM', () => process.exit());  // the workers end with their channel
} else {
  const server = http.createServer(answer);
  server.listen(port, () => console.log(`listening on port ${port}`));
}
