"""Demo: a .tflite file as a page that runs it in a browser.

It stands in row 4 of the house, below ``inspection``, whose pictures it shows.
"""
