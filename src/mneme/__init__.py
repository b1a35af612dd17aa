"""mneme: four memory mechanisms for neural sequence models, built, run and tested with controls."""
