"""Strategies from the literature as policies: opponents in a book, and what a learned agent is measured by.

A policy reads the same observation as a learned one and returns the same action. What it needs besides, its own
parameters, the rules of its role and the scales of the observation, comes as `params`, whose leaves may be swept.
"""
