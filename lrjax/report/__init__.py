"""Pictures, tables and pages of results; they read results and run nothing."""
