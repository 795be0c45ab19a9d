// Node's own cluster, as everybody writes it, around a program that knows nothing of clusters. Who
// dies is replaced. NODE_CLUSTER_SCHED_POLICY (rr or none) says who hands out the connections.
//
//     node cluster.js WORKERS PROGRAM.js [ARGUMENT…]
const cluster = require('node:cluster');

const [workers, exec, ...args] = process.argv.slice(2);
cluster.setupPrimary({ exec, args });
for (let i = 0; i < workers; i++) cluster.fork();
cluster.on('exit', () => cluster.fork());
process.on('SIGTERM', () => process.exit());  // the workers end with their channel
