"""Tables and figures from result files; never imports torch."""
