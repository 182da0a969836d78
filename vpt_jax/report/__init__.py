"""HTML reports with charts and films: building blocks of pages, reports of training, evaluation and the whole loop."""
