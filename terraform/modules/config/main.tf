# The configuration that holdfast reads, from stores that others made. No secret is in it: the password comes by HOLDFAST_PASSWORD.

locals {
  # Text of TOML is spelt as JSON's, except that JSON from Terraform writes <, > and & as escapes that TOML knows, too.
  repository = concat(
    var.write_quorum == null ? [] : ["write_quorum = ${var.write_quorum}"],
    length(var.prefer) == 0 ? [] : ["prefer = ${jsonencode(var.prefer)}"],
  )
  stores = [
    for name, store in var.stores : concat(
      ["[[store]]", "name = ${jsonencode(name)}", "url = ${jsonencode(store.url)}"],
      store.credentials == null ? [] : ["credentials = { ${join(", ", [for key, value in store.credentials : "${key} = ${jsonencode(value)}" if value != null])} }"],
    )
  ]
  jobs = [
    for name, job in var.jobs : concat(
      ["[[job]]", "name = ${jsonencode(name)}"],
      job.paths == null ? [] : ["paths = ${jsonencode(job.paths)}"],
      job.command == null ? [] : ["command = ${jsonencode(job.command)}"],
      job.filename == null ? [] : ["filename = ${jsonencode(job.filename)}"],
      length(job.exclude) == 0 ? [] : ["exclude = ${jsonencode(job.exclude)}"],
      length(job.tags) == 0 ? [] : ["tags = ${jsonencode(job.tags)}"],
      job.every == null ? [] : ["every = ${jsonencode(job.every)}"],
      job.ping == null ? [] : ["ping = ${jsonencode(job.ping)}"],
    )
  ]
  sections = concat(
    [["# Made by Terraform: change it there."]],
    length(local.repository) == 0 ? [] : [concat(["[repository]"], local.repository)],
    local.stores,
    var.host == null ? [] : [["[backup]", "host = ${jsonencode(var.host)}"]],
    local.jobs,
    length(var.retention) == 0 ? [] : [concat(["[retention]"], [for rule, count in var.retention : "${rule} = ${count}"])],
    var.watch.push == null ? [] : [["[metrics]", "push = ${jsonencode(var.watch.push)}"]],
    var.watch.ping == null ? [] : [["[ping]", "url = ${jsonencode(var.watch.ping)}"]],
    var.watch.log_format == null ? [] : [["[log]", "format = ${jsonencode(var.watch.log_format)}"]],
    [["[lifecycle]", "verify_within = \"${var.verify_within} d\""]],
  )
  config_toml = "${join("\n\n", [for lines in local.sections : join("\n", lines)])}\n"
}
