"""The report: one page, complete in itself, that shows what a home has done."""
