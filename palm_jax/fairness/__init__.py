"""Whether a model treats groups alike: parity, odds and errors of groups that the user names."""
