"""From a suite (YAML) to units of work: task × dataset × protocol, and the averages over them."""
