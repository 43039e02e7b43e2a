"""Quire beside its peers, on this machine, in one run.

    python -m benchmarks.peers --engines quire,llama.cpp --workloads W1 --weights bf16 --rounds 3

Installs the peers and prepares the models on first use (outside the repository), measures in turn, and prints the
report; with --record it is written to benchmarks/results/. See benchmarks/peers/README.md.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers import report
from benchmarks.peers.engines import ENGINES, PEER_OF, WEIGHTS, Launcher, contenders
from benchmarks.peers.install import InstallFailed, install, python_of
from benchmarks.peers.journal import Journal
from benchmarks.peers.machine import Limits, commit, facts
from benchmarks.peers.models import MODELS, ROOT, Models
from benchmarks.peers.rounds import Match
from benchmarks.peers.summary import summarize
from benchmarks.peers.workloads import HTTP, OFFLINE

RESULT = ROOT / "benchmarks" / "results" / "peers-cpu"
WORKLOADS = (*OFFLINE, *HTTP)
LARGE_WORKLOADS = ("W1", "W2", "W3")
"""W7: what is asked of the 1B shape."""


def choices(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A parser of comma-separated words of ``known``, which come in its order."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = set(chosen) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}")
        return [one for one in known if one in chosen]

    return parse


def parse() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--engines", type=choices(ENGINES), default=list(ENGINES), help=f"of {','.join(ENGINES)} (default: all)")
    add("--models", type=choices(tuple(MODELS)), default=["smollm2"], help=f"of {','.join(MODELS)} (default: smollm2)")
    add("--weights", type=choices(WEIGHTS), default=list(WEIGHTS), help=f"of {','.join(WEIGHTS)} (default: all)")
    add(
        "--workloads", type=choices(WORKLOADS), default=list(WORKLOADS), help=f"of {','.join(WORKLOADS)} (default: all)"
    )
    add("--rounds", type=int, default=5, help="(default: 5)")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="compute threads (default: all cores)")
    add("--folder", type=Path, default=os.environ.get("QUIRE_PEERS") or cache / "quire" / "peers",
        help="where peers, models and runs lie (default: $QUIRE_PEERS, or quire/peers in the cache)")  # fmt: skip
    add(
        "--quire-python",
        type=Path,
        default=Path(sys.executable),
        help="runs Quire (default: this interpreter)",
    )
    add("--run", metavar="NAME", help="name of this run; one that exists goes on where it stopped (default: the time)")
    add("--jobs", type=int, default=2, help="compilers at once while installing (default: 2)")
    add("--install-only", action="store_true", help="install the peers and prepare the models, then stop")
    add("--no-install", action="store_true", help="use what is installed; what is not is left out")
    add("--report-only", action="store_true", help="measure nothing: report the run that --run names")
    add("--record", action="store_true", help=f"write {RESULT.relative_to(ROOT)}.md, .json and .png")
    options = parser.parse_args()
    if options.report_only and not options.run:
        parser.error("--report-only needs --run NAME")
    options.folder = options.folder.absolute()
    # Not resolved: a virtual environment's interpreter is a link, and is itself only by that name.
    options.quire_python = options.quire_python.absolute()
    return options


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the engines are ended on the way out
    journal = Journal(options.folder / "runs" / (options.run or time.strftime("%Y%m%d-%H%M%S")))
    models = Models(options.folder, options.quire_python)
    if not options.report_only:
        measure(options, journal, models)
    if not options.install_only:
        publish(options, journal, models)
    return 0


def measure(options: argparse.Namespace, journal: Journal, models: Models) -> None:
    engines = installed(options, journal)
    launcher = Launcher(options.folder, options.quire_python, options.threads)
    limits = Limits(options.folder, options.threads)
    asked = " ".join(["python -m benchmarks.peers", *sys.argv[1:]])
    journal.add(
        "facts", **facts(), threads=options.threads, commit=commit(ROOT), date=time.strftime("%Y-%m-%d"), command=asked
    )
    for name in options.models:
        model = MODELS[name]
        for weights in options.weights:
            workloads = [w for w in options.workloads if name == "smollm2" or w in LARGE_WORKLOADS]
            match = Match(
                model, weights, contenders(model, weights, engines), workloads, options.rounds, journal, models,
                launcher, limits,
            )  # fmt: skip
            if options.install_only:
                match.prepare()
            elif match.contenders:
                match.run()


def installed(options: argparse.Namespace, journal: Journal) -> list[str]:
    """The engines that are there, after trying to install the others."""
    found, broken = [], set()
    for engine in options.engines:
        peer = PEER_OF.get(engine, engine)
        try:
            if peer in broken:
                continue
            if peer != "quire":
                install(options.folder, peer, options.jobs, only_check=options.no_install)
            found.append(engine)
        except InstallFailed as failure:
            broken.add(peer)
            journal.add("failure", contender=peer, what="installation", why=str(failure))
            print(f"{peer}: {failure}", file=sys.stderr)
    # Models are made with these two, whoever runs them.
    for peer in ("transformers", "llama.cpp"):
        if not options.no_install and peer not in broken:
            try:
                install(options.folder, peer, options.jobs)
            except InstallFailed as failure:
                print(f"{peer}: {failure}", file=sys.stderr)
    return found


def publish(options: argparse.Namespace, journal: Journal, models: Models) -> None:
    """Write the report into the run's folder, print it, and put it among the results if asked to."""
    summary = summarize(journal, models)
    target = RESULT if options.record else journal.folder / "report"
    target.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")
    picture = target.with_suffix(".png")
    try:
        install(options.folder, "plot", options.jobs, only_check=options.no_install)
        python, figures = python_of(options.folder, "plot"), target.with_suffix(".json")
        command = [str(python), "-m", "benchmarks.peers.plot", str(figures), str(picture)]
        subprocess.run(command, cwd=ROOT, check=True)
        drawn: str | None = picture.name
    except (InstallFailed, subprocess.CalledProcessError) as failure:
        print(f"no picture: {failure}", file=sys.stderr)
        drawn = None
    text = report.page(summary, drawn)
    target.with_suffix(".md").write_text(text)
    print(text)
    print(f"run: {journal.folder}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
