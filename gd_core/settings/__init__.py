"""The settings of every stage, as plain data below the stages: views, models and files carry them, and know no stage.

`gd_core.recipe` puts them together. A field with `RUN` in its metadata says how one run goes (seed,
memory preset), not how a model is used, so no recipe holds it.
"""
