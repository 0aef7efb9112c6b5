"""Measurements of compiled programs: matrix-product FLOPs and collectives, read from jaxprs and HLO."""
