FROM base
CMD x