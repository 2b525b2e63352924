"""What the main program assembles: data, reference models, the fit itself."""
