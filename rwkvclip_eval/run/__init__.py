"""Takes units through encoding and scoring to records, in memory or in a run directory."""
