/* The samples that a test wrote, as they are. */
  .section .samples, "a"
  .global samples, samples_end
samples:
  .incbin "samples.bin"
samples_end:
