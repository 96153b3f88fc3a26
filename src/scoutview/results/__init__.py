"""Run folders, studies, provenance, tables, figures and the results page; never imports torch."""
