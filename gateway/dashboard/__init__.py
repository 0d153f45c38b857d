"""The dashboard: what its pages know, how they are rendered, who is signed in."""
