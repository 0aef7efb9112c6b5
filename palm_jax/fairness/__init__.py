"""Whether a model treats groups alike: parity, odds and errors of groups, templates, stereotypes."""
