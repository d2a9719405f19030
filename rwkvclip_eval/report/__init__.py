"""Reports: tables, plots and the HTML page, made from result records alone."""
