"""A checkpoint belongs to one run: another quality, other words or another model keep another one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch


@pytest.fixture
def kept(pack, monkeypatch):
    """The paths that the nodes ask for, in order."""
    paths, ask = [], pack.nodes.nerf.checkpoint_path

    def asked(*inputs):
        paths.append(ask(*inputs))
        return paths[-1]

    monkeypatch.setattr(pack.nodes.nerf, "checkpoint_path", asked)
    return paths


@pytest.fixture
def views(run, ball):
    return run("ViewsFromImages", images=ball).args[0]


def test_a_fit_that_memory_makes_coarser_is_another_one(pack, run, views, kept, monkeypatch):
    """It was cancelled as standard; now something else fills the memory. The node was red until that had gone."""

    class Cancel(Exception):
        pass

    class Progress(pack.nodes.nerf.NodeProgress):
        def __call__(self, step, total, preview):
            if step == 2:
                raise Cancel

    with monkeypatch.context() as during:
        during.setattr(pack.nodes.nerf, "NodeProgress", Progress)
        with pytest.raises(Cancel):
            run("FitNeRF", views=views, steps=3, quality="standard")
    assert kept[0].exists()
    for module in ("gd_core.nerf.fit", "nodes.nerf"):
        monkeypatch.setattr(f"{pack.__name__}.{module}.free_memory", lambda device: 1)
    run("FitNeRF", views=views, steps=3, quality="standard")
    assert kept[1] != kept[0] and kept[0].exists()
    kept[0].unlink()


def test_a_fit_with_heat_maps_of_other_words_is_another_one(run, views, kept):
    run("FitNeRF", views=views, steps=2)
    run("FitNeRF", views=replace(views, attention={"ball#0": torch.zeros(4, 8, 8)}), steps=2)
    assert kept[0] != kept[1]
