# SPDX-License-Identifier: MIT
"""The plots, as SVG by gnuplot. Without gnuplot the report has tables only, and says nothing wrong."""
import os
import shutil
import subprocess
import sys

from stats import median

COLOURS = ["#1b6ca8", "#9aa5b1", "#c8ced6", "#d1495b", "#e79aa4", "#edae49", "#8d6a9f", "#3c896d",
           "#6b705c"]
PROGRAMS = ["weir", "uring", "epoll", "tokio", "tokio-mi", "monoio", "glommio", "go", "libuv"]
FILES = ("echo_cpu.svg", "tasks.svg", "open_p99.svg", "burst_rss.svg")
LINES = """set terminal svg size {width},{height} font 'sans-serif,13' background '#ffffff'
set output '{output}'
set border 3
set ytics nomirror
set xtics nomirror
set key outside top center horizontal
set title '{title}'
"""
BARS = LINES + """set style data histograms
set style histogram clustered gap 1
set style fill solid border -1
set boxwidth 0.9
set grid ytics lc rgb '#dddddd'
set xtics nomirror scale 0
set ylabel '{ylabel}'
"""
FROM_ZERO = "set yrange [0:*]\n"


def quoted(text):
    return '"' + str(text).replace("_", "\\\\_") + '"'


def bars(path, title, ylabel, rows, programs, value, options=""):
    """A cluster of bars for each row; value(row, program) may be None."""
    lines = ["\t".join(["row", *[quoted(p) for p in programs]])]
    for row in rows:
        cells = [value(row, p) for p in programs]
        lines.append("\t".join([quoted(row), *["?" if c is None else f"{c:.5g}" for c in cells]]))
    data = "$data << EOD\n" + "\n".join(lines) + "\nEOD\nset datafile missing '?'\n"
    columns = ", ".join(
        f"$data using {i + 2}{':xtic(1)' if i == 0 else ''} title {quoted(p)} "
        f"lc rgb '{COLOURS[PROGRAMS.index(p)]}'" for i, p in enumerate(programs))
    width = max(720, 60 * len(rows))
    script = BARS.format(width=width, height=420, output=path, title=title, ylabel=ylabel)
    script += options + data + "plot " + columns
    return gnuplot(script, path)


def gnuplot(script, path):
    """Whether it drew."""
    done = subprocess.run(["gnuplot"], input=script + "\n", text=True, capture_output=True)
    if done.returncode != 0:
        print(f"plot {path}: {done.stderr.strip()}", file=sys.stderr)
    return done.returncode == 0


def medians(store, group, metric):
    return lambda row, program: median(store.values(group, row, program, metric).values())


def echo_plot(out, store):
    rows = [row for row in store.rows("echo") if row.endswith(" x 64")]
    programs = [p for p in ("weir", "uring", "epoll", "tokio", "monoio", "glommio", "go", "libuv")
                if any(store.values("echo", row, p, "cpu_us") for row in rows)]
    title = "TCP echo, 64 connections, one worker: server CPU time per request"
    return rows and bars(os.path.join(out, "echo_cpu.svg"), title, "microseconds", rows, programs,
                         medians(store, "echo", "cpu_us"), FROM_ZERO) and ("echo_cpu.svg", title)


def dots(path, title, xlabel, rows, programs, value):
    """A line for each row, a dot on it for each program; value(row, program) may be None."""
    blocks, columns = "", []
    for i, program in enumerate(programs):
        points = [f"{value(row, program):.5g} {y}" for y, row in enumerate(reversed(rows))
                  if value(row, program)]
        blocks += f"$dots{i} << EOD\n" + "\n".join(points) + "\nEOD\n"
        columns.append(f"$dots{i} using 1:2 with points pt 7 ps 0.7 "
                       f"lc rgb '{COLOURS[PROGRAMS.index(program)]}' title {quoted(program)}")
    names = ", ".join(f"{quoted(row)} {y}" for y, row in enumerate(reversed(rows)))
    script = LINES.format(width=860, height=120 + 14 * len(rows), output=path, title=title)
    script += f"""set xlabel '{xlabel}'
set logscale x
set grid xtics ytics lc rgb '#dddddd'
set ytics ({names}) scale 0 font ',11'
set yrange [-0.7:{len(rows) - 0.3}]
set arrow from first 1, graph 0 to first 1, graph 1 nohead lw 1.5
"""
    return gnuplot(script + blocks + "plot " + ", ".join(columns), path)


def tasks_plot(out, store):
    programs = [p for p in ("tokio", "tokio-mi", "go") if p in store.programs("tasks")]
    value = medians(store, "tasks", "ns")
    title = "Runtime microbenchmarks: the time of others over that of weir"

    def over_weir(row, program):
        ours, theirs = value(row, "weir"), value(row, program)
        return theirs / ours if ours and theirs else None

    def nearest(row):
        return min(over_weir(row, p) for p in programs if over_weir(row, p))
    rows = sorted((row for row in store.rows("tasks")
                   if any(over_weir(row, p) for p in programs)), key=nearest)
    return rows and dots(os.path.join(out, "tasks.svg"), title, "right of 1 weir is faster",
                         rows, programs, over_weir) and ("tasks.svg", title)


def open_plot(out, store):
    rows = store.rows("open")
    title = "Echo at a fixed rate: p99 latency"
    return rows and bars(os.path.join(out, "open_p99.svg"), title, "microseconds", rows,
                         store.programs("open"),
                         medians(store, "open", "p99_us"), FROM_ZERO) and ("open_p99.svg", title)


def burst_plot(out, store):
    if not store.burst or not store.burst.programs:
        return None
    title = "Resident memory before (at -1 s), in and after a burst"
    lines = {}
    for program, at, value in store.burst.series():
        lines.setdefault(program, []).append(f"{at:.1f} {value / 1e6:.3f}")
    lines = {program: lines[program] for program in PROGRAMS if program in lines}
    data = "".join(f"$burst{i} << EOD\n" + "\n".join(points) + "\nEOD\n"
                   for i, points in enumerate(lines.values()))
    columns = ", ".join(f"$burst{i} using 1:2 with lines lw 2 "
                        f"lc rgb '{COLOURS[PROGRAMS.index(program)]}' title {quoted(program)}"
                        for i, program in enumerate(lines))
    script = LINES.format(width=720, height=420, output=os.path.join(out, "burst_rss.svg"),
                          title=title) + FROM_ZERO + f"""set ylabel 'MB'
set grid ytics lc rgb '#dddddd'
set xrange [-1:{store.burst.seconds}]
set xlabel 'seconds after the burst'
"""
    return gnuplot(script + data + "plot " + columns,
                   "burst_rss.svg") and ("burst_rss.svg", title)


def draw(out, store):
    """(file, title) of each plot drawn."""
    if not shutil.which("gnuplot"):
        return []
    return [found for found in (echo_plot(out, store), tasks_plot(out, store),
                                open_plot(out, store), burst_plot(out, store)) if found]
