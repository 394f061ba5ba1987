FROM base
RUN a \
  b
CMD ["x"]
