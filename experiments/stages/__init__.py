"""The stages of the main job, in order: market, generator, agents, meta, evaluation, report."""
