FROM base
RUN true

COPPY a b
