"""Which patches the contrastive loss looks at: by chance, by rules from the literature, or by what was learned."""
