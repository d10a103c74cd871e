"""Looking into models and not only at their pictures: the paper's Figure 4 and Appendix B. No torch."""
