"""Room `zeta`: can a network predict the next spacing between zeros, and what does it remember?

Question
    Do memory slots help a density network on the spacings of the Riemann zeta function's zeros,
    on one step or on rollouts, and what does it learn: random-matrix repulsion or the primes?

Method
    Two million zeros are computed here (`zeros`), unfolded to spacings (`unfold`) and set beside
    surrogates without primes (`surrogates`). A causal transformer with a Gaussian-mixture head
    (`model`) is trained with every memory arm at equal steps (`fit`), and read against references
    (`references`), the sine-process floor (`sine_process`) and prime memory (`primes`).

Sources
    nanoGPT_RH, SpacingMDN + Memory Bank (2026), the document whose runs E0-E2 are rebuilt.
    Odlyzko (1987), On the distribution of spacings between zeros of the zeta function.
    Bornemann (2010), On the numerical evaluation of distributions in random matrix theory.
"""
