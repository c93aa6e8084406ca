"""One file a recipe: the settings of a published run, each value with its reason."""
