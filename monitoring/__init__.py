"""Whether it is still right: outcome join, drift, guard, and the loop that orders retraining."""
