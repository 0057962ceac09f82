"""Do what a pipeline says, stage by stage, for every door alike. Draws nothing, prints nothing."""
