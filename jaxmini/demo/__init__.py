"""Demo: a .tflite file as a page that runs it in a browser. Row 4, below ``inspection``, whose pictures it shows."""
