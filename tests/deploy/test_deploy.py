"""What lies in deploy/ is checked as far as it can be: syntax, keys, resources, and every command as our own parser
reads it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from mpr_dist.cli.app import app
from mpr_dist.workflow.running.engine_options import engine_choice
from mpr_dist.workflow.running.run_options import refine_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLES = DEPLOY.parent / "examples"
SCRIPTS = sorted(DEPLOY.glob("*.sbatch"))


def understood(words: list[str]) -> bool:
    """Whether the command line takes these words of ``mpr-dist``; nothing is run."""
    group = typer.main.get_command(app)
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    command.make_context(words[0], list(words[1:]))
    return True


@pytest.fixture(scope="module")
def manifest() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="needs pyyaml: pip install 'mpr_dist[dev]'")
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.name for script in SCRIPTS])
def test_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n#SBATCH ")
    assert "set -euo pipefail" in text
    assert text.index("#SBATCH") < text.index("\nset "), "SLURM reads directives only before the first command"


def test_commands_of_the_scripts_are_understood() -> None:
    choice = "--iterations 1 --image-warp 6x4 --particles"
    tls = "--tls-ca c --tls-cert c --tls-key k"
    assert understood(shlex.split(f"refine POP {choice} --scheduler-file s.json {tls} --workers 8"))
    assert understood(shlex.split(f"refine POP --until 4 --particles --scheduler-file s.json {tls} --workers 8"))
    assert understood(shlex.split(f"worker --scheduler-file s.json {tls} --gpus 0,1,2,3"))
    assert understood(shlex.split(f"worker --scheduler-file s.json {tls} --workers 16"))
    assert understood(shlex.split(f"batch POP {choice} --threads 4 --index 3 --of 20"))
    allocation = (DEPLOY / "one_allocation.sbatch").read_text()
    assert 'tls=(--tls-ca "$run/cert.pem" --tls-cert "$run/cert.pem" --tls-key "$run/key.pem")' in allocation
    assert 'worker --scheduler-file "$run/scheduler.json" "${tls[@]}" "${share[@]}"' in allocation
    assert '--index "$SLURM_ARRAY_TASK_ID" --of "$SLURM_ARRAY_TASK_COUNT"' in (DEPLOY / "array.sbatch").read_text()
    with pytest.raises(Exception, match="--nonsense"):
        understood(["refine", "POP", "--nonsense"])


def test_the_settings_are_read() -> None:
    file = DEPLOY / "slurm.toml"
    settings, choice = refine_settings(file, {}, {}), engine_choice(file, {}, {})
    assert (settings.iterations, settings.image_warp, settings.defocus) == (4, (6, 4), True)
    assert (choice.kind, choice.workers, choice.jobs, choice.job.gpus) == ("slurm", 16, 16, 1)
    assert (choice.job.queue, choice.job.account, choice.job.memory_bytes) == ("gpu", "my-project", 64 * 10**9)
    commented = (line.removeprefix("# ") for line in file.read_text().splitlines() if re.match(r"# (\[|\w+ = )", line))
    assert [line.split()[0] for line in commented] == ["device", "[engine.tls]", "ca", "cert", "key"]


def test_the_job_script_of_the_settings(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue: pip install 'mpr_dist[slurm]'")
    from mpr_dist.engine.jobqueue import job_script

    for kind in ("slurm", "pbs", "lsf", "sge"):
        text = job_script(engine_choice(DEPLOY / "slurm.toml", {"engine": kind}, {}), tmp_path / "t.json", tmp_path)
        assert "module purge" in text
        assert "--leave-after 13800" in text


def test_every_recipe_says_when_to_use_it() -> None:
    """Three sentences for each file of deploy/, under its own heading."""
    sections = re.split(r"^## ", (DEPLOY / "README.md").read_text(), flags=re.M)[1:]
    files = {path.name for path in DEPLOY.iterdir()} - {"README.md"}
    assert {re.match("`(.+?)`", section).group(1) for section in sections} == files  # type: ignore[union-attr]
    for section in sections:
        prose = re.sub(r"`[^`]*`|\([^)]*\)", "x", section.partition("\n")[2])
        assert len(re.findall(r"[.!](?=\s|$)", prose)) == 3, section


def test_the_container_has_what_it_copies() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied
    assert all((DEPLOY.parent / name).exists() for name in copied)
    kinds = [line.split()[0] for line in lines if line and line[0].isupper()]
    assert kinds[0] == "FROM"
    assert {"USER", "ENTRYPOINT"} <= set(kinds), "nothing runs as root"
    extras = (DEPLOY.parent / "pyproject.toml").read_text()
    asked = re.search(r"ARG EXTRAS=(\w+)", "\n".join(lines))
    assert asked is not None
    assert f"\n{asked.group(1)} = [" in extras


def test_the_manifest_has_the_operators_shape(manifest: list[dict[str, Any]]) -> None:
    job, policy = manifest
    assert (job["apiVersion"], job["kind"]) == ("kubernetes.dask.org/v1", "DaskJob")
    assert set(job["spec"]) == {"job", "cluster"}
    cluster = job["spec"]["cluster"]["spec"]
    assert set(cluster) == {"worker", "scheduler"}
    assert cluster["worker"]["replicas"] == 4
    service = cluster["scheduler"]["service"]
    ports = {port["name"]: port["port"] for port in service["ports"]}
    assert ports == {"tcp-comm": 8786, "http-dashboard": 8787}
    assert service["type"] == "ClusterIP", "never to be reached from outside"
    assert service["selector"]["dask.org/cluster-name"] == job["metadata"]["name"]
    assert policy["kind"] == "NetworkPolicy"
    assert policy["spec"]["podSelector"]["matchLabels"] == {"dask.org/cluster-name": job["metadata"]["name"]}


def test_the_manifest_resources_environment_and_commands(manifest: list[dict[str, Any]]) -> None:
    spec = manifest[0]["spec"]
    driver = spec["job"]["spec"]["containers"][0]
    worker = spec["cluster"]["spec"]["worker"]["spec"]["containers"][0]
    scheduler = spec["cluster"]["spec"]["scheduler"]["spec"]["containers"][0]
    assert worker["resources"]["limits"] == {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": 1}
    for container in (driver, worker, scheduler):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {key: limits[key] for key in requests} == requests, "guaranteed: not the first to be evicted"
        assert all(isinstance(entry["value"], str) for entry in container["env"])
    for container, outer in ((driver, spec["job"]["spec"]), (worker, spec["cluster"]["spec"]["worker"]["spec"])):
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/data"]
        assert [volume["name"] for volume in outer["volumes"]] == [m["name"] for m in container["volumeMounts"]]

    address = "tcp://mpr-dist-scheduler:8786"
    command = driver["args"][0].replace('"$DASK_SCHEDULER_ADDRESS"', address)
    words = shlex.split(command)
    assert words[:2] == ["exec", "mpr-dist"]
    assert understood(words[2:])
    own = [
        word.replace("$(DASK_SCHEDULER_ADDRESS)", address).replace("$(DASK_WORKER_NAME)", "w")
        for word in worker["args"]
    ]
    assert understood(own)
    assert not any("$" in word for word in own)


def test_the_examples_are_read() -> None:
    for file in sorted(EXAMPLES.glob("*.toml")):
        assert refine_settings(file, {}, {}).refines_anything
        assert engine_choice(file, {}, {}).kind
