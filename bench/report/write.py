# SPDX-License-Identifier: MIT
"""The report: one document of headings, paragraphs, tables and pictures, as Markdown and as HTML."""
import csv
import html
import os
import re
import shutil
import sys

import asked
import build
import catalogue
import costs
import goals
import plots
from pool import TAILS, TailRatio, percentile_us
from rounds import LEAVE_OUT_ABOVE
from stats import Ratio, median

NAMES = {"rate": "requests/s", "cpu_us": "CPU us/request", "p50_us": "p50 us", "p99_us": "p99 us",
         "p99.9_us": "p99.9 us", "p99.99_us": "p99.99 us", "ns": "ns/operation",
         "min_ns": "min ns", "count": "cost", "bytes": "resident bytes"}
WIDE = ("tasks", "alloc", "cost", "memory")  # one table with a column for each program
ROOFLINES = tuple(goals.ROOFLINES)
IDLE_ROOFLINES = ("kv",)  # groups in which they do none of the work, and are no comparison
FILES = ("report.md", "report.html", "samples.csv", "burst.csv")
DISTURBANCE = ("foreign_percent", "steal_percent")
RESULTS = os.path.join(build.REPO, "bench", "results")


def number(value):
    if value is None:
        return "-"
    if abs(value) < 0.005:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def with_spread(by_round):
    """Median, and half the range in percent of it."""
    values = list(by_round.values())
    middle = median(values)
    if middle is None:
        return "-"
    if not middle or len(values) == 1:
        return number(middle)
    return f"{number(middle)} ±{50 * (max(values) - min(values)) / middle:.0f}%"


def ratio(store, group, row, program):
    weir = store.values(group.name, row, "weir", group.metric)
    other = store.values(group.name, row, program, group.metric)
    return Ratio(other, weir)


def bold(text):
    """Markdown's **so**, in HTML."""
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)


class Document:
    """A list of (kind, content...) that renders itself twice."""

    def __init__(self):
        self.parts = []

    def heading(self, text):
        self.parts.append(("heading", text))

    def text(self, text):
        if text:
            self.parts.append(("text", text))

    def items(self, lines):
        self.parts.append(("items", list(lines)))

    def table(self, header, rows, words=False):
        """Cells after the first are aligned as numbers, unless they are words."""
        if rows:
            self.parts.append(("table", header, rows, words))

    def picture(self, file, title):
        self.parts.append(("picture", file, title))

    def markdown(self):
        out = []
        for kind, *content in self.parts:
            out.append(getattr(self, "markdown_" + kind)(*content))
        return "# weir beside its rivals\n\n" + "\n\n".join(out) + "\n"

    def markdown_heading(self, text):
        return "## " + text

    def markdown_text(self, text):
        return text

    def markdown_items(self, lines):
        return "\n".join("* " + line for line in lines)

    def markdown_table(self, header, rows, words):
        lines = ["| " + " | ".join(header) + " |",
                 "|---|" + ("---|" if words else "---:|") * (len(header) - 1)]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])

    def markdown_picture(self, file, title):
        return f"![{title}]({file})"

    def html(self):
        out = []
        for kind, *content in self.parts:
            out.append(getattr(self, "html_" + kind)(*content))
        return HTML_HEAD + "\n".join(out) + "\n</body></html>\n"

    def html_heading(self, text):
        return f"<h2>{html.escape(text)}</h2>"

    def html_text(self, text):
        return f"<p>{bold(html.escape(text))}</p>"

    def html_items(self, lines):
        return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"

    def html_table(self, header, rows, words):
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "\n".join("<tr>" + "".join(f"<td>{bold(html.escape(cell))}</td>" for cell in row)
                         + "</tr>" for row in rows)
        kind = ' class="words"' if words else ""
        return f"<table{kind}><tr>{head}</tr>\n{body}</table>"

    def html_picture(self, file, title):
        return f'<p><img src="{html.escape(file)}" alt="{html.escape(title)}"></p>'


HTML_HEAD = """<!doctype html>
<html><head><meta charset="utf-8"><title>weir beside its rivals</title>
<style>
body { font: 15px/1.45 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .2em .7em; text-align: right }
td:first-child, th:first-child, .words td, .words th { text-align: left } tr:nth-child(even) { background: #f4f4f4 }
th { border-bottom: 2px solid #888 } img { max-width: 100% }
</style></head><body>
<h1>weir beside its rivals</h1>
"""


def tails_table(document, store, group):
    """Percentiles of all rounds together, beside the least and the greatest of a round."""
    lines = []
    for row in store.rows(group.name):
        weir = store.latencies(group.name, row, "weir")
        for program in store.programs(group.name):
            other, cells = store.latencies(group.name, row, program), []
            for percent in TAILS.values() if other else ():
                by_round = [percentile_us([sample], percent) for sample in other.values()]
                cells += [number(percentile_us(other.values(), percent)),
                          f"{number(min(by_round))}-{number(max(by_round))}",
                          "1" if program == "weir" else TailRatio(other, weir, percent).text()]
            if cells:
                lines.append([f"{row}: {program}", *cells,
                              number(store.disturbance(group.name, row, program))])
    if lines:
        document.text("**All rounds together.** One standstill of the machine decides the tail of a "
                      "round: 'of a round' has the least and the greatest. The ratio is taken of the "
                      "rounds that both have, and its interval resamples them. The last column is the "
                      "worst round's foreign time and steal: 1 % is the kernel's smallest unit, 10 ms.")
        document.table(["row and program", *[cell for name in TAILS for cell in (
            NAMES[name], "of a round", "× weir's (95 %)")], "others, % of a CPU"], lines)


def row_tables(document, store, group):
    """A table for each row: a line for each program, weir first."""
    header = ["program", NAMES.get(group.metric, group.metric), "× weir's (95 %)",
              *[NAMES.get(name, name) for name in group.columns]]
    for row in store.rows(group.name):
        lines = []
        for program in store.programs(group.name):
            judged = store.values(group.name, row, program, group.metric)
            if not judged:
                continue
            against = "1" if program == "weir" else ratio(store, group, row, program).text()
            lines.append([program, with_spread(judged), against,
                          *[number(median(store.values(group.name, row, program, name).values()))
                            for name in group.columns]])
        if lines:
            document.text(f"**{row}**")
            document.table(header, lines)
    tails_table(document, store, group)


def ours(program):
    """weir, and its other ways to allocate."""
    return program.startswith("weir")


def best_rival(store, group, row):
    """The rival that comes nearest to weir in the row or is furthest ahead of it."""
    medians = {p: median(store.values(group.name, row, p, group.metric).values())
               for p in store.programs(group.name) if not ours(p) and p not in ROOFLINES}
    known = {program: value for program, value in medians.items() if value is not None}
    return min(known, key=known.get) if known else None


def wide_table(document, store, group):
    """One table for all rows: a column for each program, and the ratio of the best of them."""
    programs = store.programs(group.name)
    lines = []
    for row in store.rows(group.name):
        best = best_rival(store, group, row)
        against = f"{best} {ratio(store, group, row, best).text()}" if best else "-"
        lines.append([row, *[with_spread(store.values(group.name, row, p, group.metric))
                             for p in programs], against])
    document.table(["row", *programs, "best rival × weir's (95 %)"], lines)


def verdicts(store):
    """(group, row, program, ratio, verdict) of every comparison with weir."""
    found = []
    for name, group in catalogue.groups().items():
        for row in store.rows(name) if name != "cost" else ():
            for program in store.programs(name):
                if ours(program) or (name in IDLE_ROOFLINES and program in ROOFLINES):
                    continue
                compared = ratio(store, group, row, program)
                verdict = compared.verdict(group.higher_is_better)
                if verdict:
                    found.append((group, row, program, compared, verdict))
    return found


def summary(document, store):
    found = verdicts(store)
    document.heading("In short")
    if not found:
        document.text("Nothing could be compared: no row has undisturbed samples of weir and of "
                      "another program.")
        return
    lines = []
    for program in dict.fromkeys(f[2] for f in found):
        mine = [f[4] for f in found if f[2] == program]
        kind = " (a bound, not a rival)" if program in ROOFLINES else ""
        lines.append([program + kind, *[str(mine.count(v)) for v in ("ahead", "level", "behind")]])
    document.text("Rows in which weir is ahead of, level with or behind each program; level means "
                  "that the 95 % interval of the ratio holds 1.")
    document.table(["against", "ahead", "level", "behind"], lines)
    behind = [f"{g.title}: {row}: {program} needs {r.text()} of weir's {NAMES[g.metric]}"
              for g, row, program, r, verdict in found if verdict == "behind"]
    document.text("Where weir is behind:" if behind else "weir is behind in no row of this run.")
    if behind:
        document.items(behind)


def goals_table(document, store):
    verdicts, unknown = goals.judged(store)
    if not verdicts:
        return
    met = sum(verdict.met for verdict in verdicts)
    document.heading("What weir must reach")
    document.text(f"{met} of {len(verdicts)} met, by the medians of this run and the ratios of its "
                  "rounds (with their 95 % interval); 'within noise' says that the interval holds "
                  "the bound.")
    document.table(["row", "must", "measured", "verdict"],
                   [[v.row, v.must, v.measured, v.word if v.met else f"**{v.word}**"]
                    for v in verdicts], words=True)
    unknown = sorted(set(unknown) - {verdict.row for verdict in verdicts}, key=unknown.index)
    if unknown:
        document.text("Not measured in this run: " + "; ".join(unknown) + ".")


def asked_table(document, store):
    titles = {name: group.title.split(",", 1)[0] for name, group in catalogue.groups().items()}
    document.heading("What was asked for, and where it is")
    document.text("Figures are those of a program in a row.")
    document.table(["asked for", "table", "figures", "not there, because"],
                   asked.table(store, titles), words=True)


def noise(document, store):
    samples = store.samples
    if not samples:
        document.text("There is not one sample.")
        return
    noisy = [s for s in samples if not s.quiet]
    again = [s for s in samples if s.tries > 1]
    share = sorted(s.disturbance for s in samples)
    if store.interrupted:
        document.text("**The run was interrupted: rows and rounds are missing.**")
    document.text(
        f"{len(samples)} samples; others used {median(share):.1f} % of a CPU (median; at most "
        f"{share[-1]:.1f} %); {len(again)} were repeated; {len(noisy)} were above "
        f"{LEAVE_OUT_ABOVE:.0f} % even then and are "
        + ("used all the same, as asked." if store.keep_noisy else "left out."))
    if len(noisy) > len(samples) / 10:
        document.text("**The machine was noisy, in more than a tenth of the samples: do not quote "
                      "these figures.**")


def left_out(document, store):
    lines = [f"{rival.name}: {rival.missing}" for rival in build.ALL
             if rival.missing and rival.missing != "not asked for"]
    lines += [f"{program} in {group}, {job}: {why}"
              for (group, job, program), why in store.failures.items()]
    if lines:
        document.text("Left out, and why:")
        document.items(line.replace(build.REPO + os.sep, "") for line in lines)


def compose(store, facts, pictures):
    document = Document()
    summary(document, store)
    goals_table(document, store)
    noise(document, store)
    left_out(document, store)
    for file, title in pictures:
        document.picture(file, title)
    for name, group in catalogue.groups().items():
        if not store.rows(name):
            continue
        document.heading(group.title)
        document.text(group.note)
        (wide_table if name in WIDE else row_tables)(document, store, group)
    asked_table(document, store)
    document.heading("The machine and the programs")
    document.table(["what", "here"], [list(fact) for fact in facts], words=True)
    document.table(["rival", "what", "version"],
                   [[r.name, r.what, r.version() or ""] for r in build.ALL if not r.missing],
                   words=True)
    document.text("Median of the rounds ± half their range. '× weir's' is the program's figure over "
                  "weir's of the same round, median and bootstrap interval. bench/README.md has "
                  "the method.")
    return document


def write_csv(path, store):
    with open(path, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["group", "row", "program", "round", "tries", "usable", *DISTURBANCE,
                      "metric", "value"])
        for s in store.samples:
            who = [s.group, s.row, s.program, s.round, s.tries, int(store.usable(s)),
                   *[f"{s.figures.get(name, 0):.3g}" for name in DISTURBANCE]]
            out.writerows([*who, metric, f"{value:.6g}"] for metric, value in s.figures.items()
                          if metric not in DISTURBANCE)


def write_burst(path, burst):
    with open(path, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["program", "seconds_after", "resident_bytes"])
        out.writerows([program, f"{at:.1f}", value] for program, at, value in burst.series())


def everything(out, store, facts):
    os.makedirs(out, exist_ok=True)
    for file in written(out):
        os.unlink(file)  # of an earlier run, which may have had other plots
    write_csv(os.path.join(out, "samples.csv"), store)
    if store.burst:
        write_burst(os.path.join(out, "burst.csv"), store.burst)
    pictures = plots.draw(out, store)
    store.samples = costs.from_echo(store) + store.samples
    document = compose(store, facts, pictures)
    for file, text in (("report.md", document.markdown()), ("report.html", document.html())):
        with open(os.path.join(out, file), "w", encoding="utf-8") as target:
            target.write(text)
    print(document.markdown())
    print(f"written: {os.path.join(out, 'report.md')}, report.html, samples.csv"
          + "".join(", " + file for file, _title in pictures))


def written(folder):
    """The files of the report that is there."""
    files = [os.path.join(folder, name) for name in (*FILES, *plots.FILES)]
    return [file for file in files if os.path.exists(file)]


def keep(folder):
    """Copies the last run to where it is committed; the HTML says nothing that the rest does not."""
    if not written(folder):
        print("bench: no report to keep; make bench writes one", file=sys.stderr)
        return 1
    shutil.rmtree(RESULTS, ignore_errors=True)
    os.makedirs(RESULTS)
    for file in written(folder):
        if not file.endswith(".html"):
            shutil.copy(file, RESULTS)
    print("kept in bench/results: " + " ".join(sorted(os.listdir(RESULTS))))
    return 0
