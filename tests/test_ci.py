# SPDX-License-Identifier: Apache-2.0
"""Recipes for CI, run as far as a machine without those services can."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest
from ruamel.yaml import YAML

from dmabuf_trace.errors import (
    EXIT_FINDINGS,
    EXIT_INCONCLUSIVE,
    EXIT_OK,
    EXIT_SKIPPED,
    EXIT_USAGE,
)
from tests.vm import run_guest
from tests.vm.kernels import find_kernel
from tests.vm.packages import kernel_files
from tests.vm.root import root
from tests.vm.source import kernel_source
from tests.vm.stage import GUEST_STAGE_DIR, stage_tree

CI: Final = Path(__file__).resolve().parents[1] / "examples" / "ci"
PASS, FAIL, SKIP = 0, 1, 4
SCHEMAS: Final = {"github.yml": "vendor.github-workflows", "gitlab.yml": "vendor.gitlab-ci"}
TIMEOUT: Final = 1800
"""Seconds; each of six runs of check imports pandas, in emulation."""


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(CI / name)
    return content


def github_step(name: str) -> str:
    """The script of a step."""
    (job,) = load("github.yml")["jobs"].values()
    (script,) = (step["run"] for step in job["steps"] if step.get("name") == name)
    assert isinstance(script, str)
    return script


@pytest.mark.parametrize(("file", "schema"), SCHEMAS.items())
def test_their_form_is_what_the_services_publish(file: str, schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(CI / file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_recipe_is_in_the_readme_and_is_a_shells() -> None:
    files = {file.name for file in CI.iterdir()} - {"README.md"}
    assert files == set(re.findall(r"^\| `([^`]+)`", (CI / "README.md").read_text(), re.MULTILINE))
    scripts = [(CI / name).read_text() for name in files if name.endswith(".sh")]
    job = load("gitlab.yml")["dma-buf"]
    steps = ["Install it", "Run the suite under it"]
    for script in (*scripts, *job["before_script"], *job["script"], *map(github_step, steps)):
        subprocess.run(["sh", "-n", "-c", script], check=True)


# --- kselftest.sh, beside a gate that says what it is told to


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Runs the command, as check does, unless it is to refuse; its status is $VERDICT."""
    file = tmp_path / "gate"
    file.write_text(
        "#!/bin/sh\n"
        'for word in "$@"; do case $word in ktap=*) ktap=${word#ktap=} ;; esac; done\n'
        'while [ "$1" != -- ]; do shift; done; shift\n'
        f"case $VERDICT in {EXIT_USAGE} | {EXIT_SKIPPED}) exit $VERDICT ;; esac\n"
        '"$@"; printf "KTAP version 1\\n1..1\\nok 1 leaks.fd\\n" >"$ktap"; exit $VERDICT\n'
    )
    file.chmod(0o755)
    return file


NESTED = ["  KTAP version 1", "  1..1", "  ok 1 leaks.fd"]
BROKEN = "# something is left behind, or a rule broken"
LOST = "# events were lost or not observed"


@pytest.mark.parametrize(
    ("own", "verdict", "lines", "status"),
    [
        (PASS, EXIT_OK, ["ok 1 sh", *NESTED, "ok 2 sh.dma-buf"], PASS),
        (SKIP, EXIT_OK, ["ok 1 sh # SKIP", *NESTED, "ok 2 sh.dma-buf"], SKIP),
        (3, EXIT_OK, ["not ok 1 sh # exit=3", *NESTED, "ok 2 sh.dma-buf"], FAIL),
        (
            PASS,
            EXIT_FINDINGS,
            ["ok 1 sh", *NESTED, BROKEN, "not ok 2 sh.dma-buf"],
            FAIL,
        ),
        (SKIP, EXIT_INCONCLUSIVE, ["ok 1 sh # SKIP", *NESTED, LOST, "not ok 2 sh.dma-buf"], FAIL),
        (PASS, EXIT_SKIPPED, ["ok 1 sh", "ok 2 sh.dma-buf # SKIP this kernel can't be traced"], 0),
        (
            PASS,
            EXIT_USAGE,
            ["not ok 1 sh # exit=none", "# no verdict, dmabuf-trace exit=2", "not ok 2 sh.dma-buf"],
            FAIL,
        ),
    ],
)
def test_a_kselftests_two_results(
    gate: Path, own: int, verdict: int, lines: list[str], status: int
) -> None:
    script = f"echo 'ok 1 its own'; printf 'no end'; exit {own}"
    environment = os.environ | {"DMABUF_TRACE": str(gate), "VERDICT": str(verdict)}
    command = [str(CI / "kselftest.sh"), "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    said = [] if verdict == EXIT_USAGE else ["# ok 1 its own", "# no end"]

    assert done.stdout.splitlines() == ["KTAP version 1", "1..2", *said, *lines]
    assert done.returncode == status


def test_a_process_that_stays_behind_does_not_keep_it_waiting(gate: Path) -> None:
    """It would: whoever reads a pipe reads until the last process has closed it."""
    command = [str(CI / "kselftest.sh"), "sh", "-c", "sleep 1000 & echo $!"]
    environment = os.environ | {"DMABUF_TRACE": str(gate), "VERDICT": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=60
    )
    os.kill(int(done.stdout.splitlines()[2].removeprefix("# ")), 9)
    assert done.returncode == PASS


# --- in guests

LEAK: Final = """
import os, subprocess
from examples.clients import heap_alloc
os.set_inheritable(fd := heap_alloc(4096), True)
subprocess.Popen(["sleep", "1000"], close_fds=False, stdout=subprocess.DEVNULL)
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wrapper and GitHub's step left behind, in a guest."""
    out = tmp_path_factory.mktemp("ci")
    (out / "leak.py").write_text(LEAK)
    (out / "step.sh").write_text(github_step("Run the suite under it"))
    (out / "sudo").write_text('#!/bin/sh\n[ "${1#--}" = "$1" ] || shift\nexec "$@"\n')
    (out / "sudo").chmod(0o755)
    script = """
    set -e
    modprobe vgem
    cp -r /opt/selftests /tmp/suite
    cd /tmp/suite
    cp /out/sudo /usr/local/bin
    cp /src/examples/ci/kselftest.sh /usr/local/bin
    for test in dmabuf-heaps/dmabuf-heap drivers/dma-buf/udmabuf; do
        printf '#!/bin/sh\\nexec kselftest.sh ./%s\\n' "${test##*/}" >"$test.sh"
    done
    printf '#!/bin/sh\\nexec kselftest.sh python3 /out/leak.py\\n' >dmabuf-heaps/leak.sh
    chmod +x */*.sh */*/*.sh
    printf '%s\\n' dmabuf-heaps:dmabuf-heap.sh dmabuf-heaps:leak.sh drivers/dma-buf:udmabuf.sh \\
        >kselftest-list.txt
    ./run_kselftest.sh -s -o 300 >/out/results
    cp output.log /out
    export GITHUB_WORKSPACE=/tmp/suite
    for suite in dmabuf-heaps/dmabuf-heap 'python3 /out/leak.py'; do
        mkdir /tmp/work
        cd /tmp/work
        touch summary
        status=0
        SUITE="/tmp/suite/$suite"
        [ -x "$SUITE" ] || SUITE=$suite
        export SUITE GITHUB_STEP_SUMMARY=/tmp/work/summary
        bash -e /out/step.sh >log || status=$?
        echo $status >status
        cp -r /tmp/work "/out/step-$(basename "$suite")"
        cd /
        rm -r /tmp/work
    done
    """
    command = ["sh", "-c", script]
    done = run_guest("6.12", command, timeout=TIMEOUT, selftests=True, shares={"/out": out})
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.guest
def test_kselftests_runner_shows_both_results(tried: Path) -> None:
    """The kernel's udmabuf test fails by itself: it needs 2 GiB of huge pages."""
    results = (tried / "results").read_text().splitlines()
    log = (tried / "output.log").read_text()

    assert [line for line in results if line.startswith(("ok", "not ok"))] == [
        "ok 1 selftests: dmabuf-heaps: dmabuf-heap.sh",
        "not ok 2 selftests: dmabuf-heaps: leak.sh # exit=1",
        "not ok 1 selftests: drivers/dma-buf: udmabuf.sh # exit=1",
    ]
    assert re.findall(r"^# ((?:not )?ok [12] .+)$", log, re.MULTILINE) == [
        "ok 1 dmabuf-heap",
        "ok 2 dmabuf-heap.dma-buf",
        "ok 1 python3",
        "not ok 2 python3.dma-buf",
        "not ok 1 udmabuf # exit=1",
        "ok 2 udmabuf.dma-buf",
    ]


@pytest.mark.guest
def test_the_kernels_parser_reads_a_kselftests_ktap(tried: Path, tmp_path: Path) -> None:
    """Each of the three, as the runner prefixed it."""
    text = (tried / "output.log").read_text()
    parts = text.split("# KTAP version 1\n")[1:]
    for part, status in zip(parts, (PASS, FAIL, FAIL), strict=True):
        lines = [line[2:] for line in part.splitlines() if line.startswith("# ")]
        file = tmp_path / "ktap"
        file.write_text("\n".join(["KTAP version 1", *lines]) + "\n")
        kunit = kernel_source() / "tools/testing/kunit/kunit.py"
        command = [sys.executable, str(kunit), "parse", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout
        assert "[ERROR]" not in done.stdout


@pytest.mark.guest
def test_githubs_step_passes_the_verdict_on(tried: Path) -> None:
    clean, leak = tried / "step-dmabuf-heap", tried / "step-leak.py"

    assert (clean / "status").read_text() == f"{EXIT_OK}\n"
    assert (leak / "status").read_text() == f"{EXIT_FINDINGS}\n"
    for folder, findings in ((clean, 0), (leak, 1)):
        sarif = json.loads((folder / "leaks.sarif").read_text())
        assert len(sarif["runs"][0]["results"]) == findings
        assert (folder / "log").read_text().count("::error ") == findings
        assert (folder / "summary").stat().st_size
        assert (folder / "leaks.dbt").stat().st_size
        report = ET.parse(folder / "leaks.xml").getroot()  # noqa: S314 our own
        assert len(list(report.iter("failure"))) == findings


@pytest.mark.guest
def test_gitlabs_script_boots_a_kernel_and_judges_a_suite_in_it(tmp_path: Path) -> None:
    """As the job has it; by the options a guest sees the lab's files, not this machine's."""
    disk = root()
    kernel = kernel_files(find_kernel("6.12"), disk)
    (tmp_path / "ci").symlink_to(CI)
    vng = ["--disable-kvm", "--force-9p", "--cpus=1", "--rw", "--qemu-opts=-snapshot"]
    vng += ["--busybox", str(disk.tree / "usr/bin/busybox"), "--root-fstype=ext4"]
    vng += ["--root-disk", str(disk.disk), "--rodir", f"{GUEST_STAGE_DIR}={stage_tree(disk)}"]
    gate = f"env PYTHONPATH={GUEST_STAGE_DIR} {GUEST_STAGE_DIR}/bin/dmabuf-trace"
    job = load("gitlab.yml")["dma-buf"]
    environment = {
        **os.environ,
        **job["variables"],
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
        "KERNEL": str(kernel.image),
        "SUITE": "uname -r",
        "VNG_OPTIONS": " ".join(vng),
        "DMABUF_TRACE": gate,
    }
    script = "\n".join(job["script"])
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )

    assert done.returncode == EXIT_OK, done.stderr
    assert kernel.release in done.stdout
    assert "clean (exit status 0)" in done.stdout
    assert (tmp_path / "leaks/leaks.dbt").stat().st_size
    report = ET.parse(tmp_path / "leaks/leaks.xml").getroot()  # noqa: S314 our own
    assert not list(report.iter("failure"))
    assert len(list(report.iter("testcase"))) > 1
