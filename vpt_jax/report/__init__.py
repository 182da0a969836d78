"""Pages of figures and films: the parts of any page, the report of a training run, the report of the whole loop."""
