"""Adapters as material: strengths, blends, smaller ones, reports."""
