"""Renewing a deployed model: challengers learn what users corrected, and are promoted if they beat the champion."""
