"""An HTTP server for trained models."""
