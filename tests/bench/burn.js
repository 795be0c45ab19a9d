// The work of one request: `/work?burn_ms=20` uses 20 ms of CPU time, and nobody else is served by
// that process meanwhile. Any other path is light.
module.exports = function burn(url) {
  const found = /[?]burn_ms=([0-9.]+)/.exec(url);
  if (!found) return;
  const start = process.cpuUsage();
  let used;
  do {
    used = process.cpuUsage(start);
  } while (used.user + used.system < found[1] * 1000);
};
