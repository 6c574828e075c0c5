"""Which partials count: checked by the driver, disjoint, in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from mpr_dist.engine.executor import Executor
from mpr_dist.model.population import IterationFiles
from mpr_dist.storage.accumulators import DamagedPartial, Manifest, read_manifest
from mpr_dist.storage.ledger import Ledger
from mpr_dist.storage.publish import disk, is_temporary
from mpr_dist.workflow.running.carrying import map_carrying
from mpr_dist.workflow.running.tasks import run_verify
from mpr_dist.workflow.state.science import SeriesJob
from mpr_dist.workflow.state.series_results import published_hash


class Acceptance:
    """The partials accepted so far. A series is in one of them or in none."""

    def __init__(
        self, files: IterationFiles, ledger: Ledger, jobs: Mapping[str, SeriesJob], expected: Manifest
    ) -> None:
        self._files = files
        self._ledger = ledger
        self._jobs = jobs
        self._expected = expected
        self.partials: dict[str, Manifest] = {}
        self.series: set[str] = set()

    def accept(self, name: str) -> str | None:
        """Take a published partial in, or say why not; one that cannot be used is removed."""
        why = self._add(name)
        if why is None:
            self._ledger.append("accept", partial=name, series=sorted(self.partials[name].series))
        else:
            self._ledger.append("reject", partial=name, reason=why)
        return why

    def reject(self, name: str, why: str) -> None:
        """Take an accepted partial out again; its series are pending once more."""
        manifest = self.partials.pop(name)
        self.series -= set(manifest.series)
        self._ledger.append("reject", partial=name, reason=why)
        disk().remove_tree(self._files.partials / name)

    def recover(self, executor: Executor, stopped: Callable[[], bool]) -> tuple[int, list[tuple[str, str]]]:
        """Take up what an earlier session left: read every byte of every partial once.

        What the ledger accepted comes first; partials whose batch ended when the driver was gone already are taken in
        as if they had just come. Returns the number of series kept, and the partials that were not, with the reason.
        """
        known = self._accepted_before()
        found = sorted(p.name for p in self._files.partials.iterdir() if p.is_dir() and not is_temporary(p))
        names = [*(n for n in known if n in found), *(n for n in found if n not in known)]
        paths = (self._files.partials / name for name in names if not stopped())
        verdict = {done.item.name: done.unwrap() for done in map_carrying(executor, run_verify, paths)}
        rejected: list[tuple[str, str]] = [(name, "its files are gone") for name in known if name not in found]
        for name in names:
            if name not in verdict:
                continue
            why = verdict[name]
            if why is None:
                why = self._add(name) if name in known else self.accept(name)
            else:
                disk().remove_tree(self._files.partials / name)
            if why:
                rejected.append((name, why))
        for name, why in rejected:
            if name in known:
                self._ledger.append("reject", partial=name, reason=why)
        return len(self.series), rejected

    def total(self) -> Manifest:
        """The manifest of the sum of all accepted partials."""
        series = {name: value for manifest in self.partials.values() for name, value in manifest.series.items()}
        return replace(self._expected, series=series)

    def overtaken(self) -> dict[str, str]:
        """Accepted partials whose parameters are no longer those published, with the reason.

        Workers of a run that was killed may outlive it for a while, and still write.
        """
        found: dict[str, str] = {}
        for name, manifest in self.partials.items():
            changed = self._changed(manifest)
            if changed:
                found[name] = f"its parameters were published again, differently: {', '.join(changed[:3])}"
        return found

    def _changed(self, manifest: Manifest) -> list[str]:
        return sorted(n for n, value in manifest.series.items() if published_hash(self._files.series(n)) != value)

    def _accepted_before(self) -> list[str]:
        known: dict[str, None] = {}
        for record in self._ledger.records:
            if record["kind"] == "accept":
                known[record["partial"]] = None
            elif record["kind"] == "reject":
                known.pop(record["partial"], None)
        return list(known)

    def _add(self, name: str) -> str | None:
        directory = self._files.partials / name
        if name in self.partials:
            return None
        try:
            manifest = read_manifest(directory)
        except DamagedPartial as damage:
            why: str | None = damage.why
        else:
            why = self._objection(directory, manifest)
        if why is not None:
            disk().remove_tree(directory)
            return why
        self.partials[name] = manifest
        self.series |= set(manifest.series)
        return None

    def _objection(self, directory: Path, manifest: Manifest) -> str | None:
        if replace(manifest, series={}, crc={}) != self._expected:
            return "made with other settings, references, shapes or another version"
        if manifest.name != directory.name or not manifest.series:
            return "its name does not belong to its content"
        unknown = sorted(set(manifest.series) - set(self._jobs))
        if unknown:
            return f"contains tilt series that are not part of this iteration: {', '.join(unknown[:3])}"
        twice = sorted(set(manifest.series) & self.series)
        if twice:
            return f"contains tilt series that are counted already: {', '.join(twice[:3])}"
        changed = self._changed(manifest)
        if changed:
            return f"made with parameters that are not the published ones: {', '.join(changed[:3])}"
        return None
