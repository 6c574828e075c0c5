"""--memory-per-worker and --scratch: what cannot fit is refused before anything runs."""

from __future__ import annotations

CHOICE = ("--image-warp", "2x2", "--particles", "--engine", "inline")


def test_too_little_memory_is_refused_with_advice(project, mpr, add_source, add_species, tmp_path):
    add_source(project.files.root)
    assert add_species(project.files.root).code == 0
    pop = tmp_path / "pop"
    assert mpr("plan", pop, *CHOICE, "--memory-per-worker", "4GiB", "--scratch", tmp_path).code == 0
    for command in (("plan", *CHOICE), ("refine", *CHOICE), ("batch", *CHOICE[:-2], "--index", "1", "--of", "1")):
        refused = mpr(command[0], pop, *command[1:], "--memory-per-worker", "100MiB")
        assert refused.code == 2
        assert refused.is_one_line()
        assert "give more --memory-per-worker, or use a smaller box" in refused.err
    streamed = mpr("plan", pop, *CHOICE, "--memory-per-worker", "100MiB").out
    assert "streamed     images of 1 of 1 series exceed the 100 MiB of a worker" in streamed
    assert mpr("plan", pop, *CHOICE, "--memory-per-worker", "much").code == 2
    nowhere = mpr("refine", pop, *CHOICE, "--scratch", tmp_path / "nowhere")
    assert nowhere.code == 2
    assert "no such directory; --scratch needs one on a local disk" in nowhere.err
    assert not (pop / "iterations" / "001").exists()
