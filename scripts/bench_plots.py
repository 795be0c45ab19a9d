"""Draws what scripts/bench has measured, by gnuplot, as PNGs. Not a command.

    latency-SERVER.png   p99 of the short requests by load, a line for each peer
    growth.png           start, memory and CPU by number of workers"""

import re
import subprocess

STYLE = """
set terminal pngcairo noenhanced size {width},{height} font "sans,11"
set output "{path}"
set grid
set key outside right top
"""


def points_of(rows, figure, scale):
    """Lines of: the number in the case's name, median, least, most."""
    lines = [" ".join([re.search(r"[\d.]+", row["case"])[0],
                       *(str(row[figure][name] * scale) for name in ("median", "min", "max"))])
             for row in rows if figure in row]
    return "\n".join(lines)


def lines_by_peer(rows, figure, scale):
    """gnuplot's blocks of data and the command that draws them with their spread."""
    peers = list(dict.fromkeys(row["peer"] for row in rows if figure in row))
    blocks, parts = [], []
    for number, peer in enumerate(peers):
        points = points_of([row for row in rows if row["peer"] == peer], figure, scale)
        blocks.append(f"$peer{number} << EOD\n{points}\nEOD")
        width = 3 if peer == "drover" else 1
        parts.append(f"$peer{number} using 1:2:3:4 with yerrorlines linewidth {width} "
                     f"title \"{peer}\"")
    return "\n".join(blocks) + "\nplot " + ", ".join(parts) + "\n"


def run_gnuplot(path, text):
    subprocess.run(["gnuplot"], input=text, text=True, check=True)
    return path


def plot_latencies(folder, rows, server):
    path = folder / f"latency-{server}.png"
    return run_gnuplot(path, STYLE.format(width=900, height=600, path=path) + f"""
set title "{server}: short requests among a few long ones"
set xlabel "load"
set ylabel "p99, ms"
set logscale y
set xrange [0.45:0.95]
""" + lines_by_peer(rows, "p99_us", 0.001))


def plot_growth(folder, rows):
    path = folder / "growth.png"
    panels = [("ready_ms", 1, "till all serve, ms"),
              ("master_anon_kb", 1 / 1024, "the master's RssAnon, MB"),
              ("peer_us", 1, "CPU per connection, µs")]
    text = STYLE.format(width=900, height=1200, path=path) + """
set multiplot layout 3,1
set logscale x 2
set xrange [0.8:320]
set xlabel "workers"
"""
    for figure, scale, title in panels:
        text += f'set ylabel "{title}"\nset yrange [0:*]\n' + lines_by_peer(rows, figure, scale)
    return run_gnuplot(path, text)


def plot(folder, summary):
    """Draws what there is; returns the files."""
    mixed = [row for row in summary if row["experiment"] == "mixed"]
    growth = [row for row in summary if row["experiment"] == "growth"]
    paths = [plot_latencies(folder, [row for row in mixed if row["server"] == server], server)
             for server in dict.fromkeys(row["server"] for row in mixed)]
    return paths + ([plot_growth(folder, growth)] if growth else [])
