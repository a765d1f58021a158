# The scheduled job: a task of Fargate as writer every day, and one as pruner every week.

locals {
  jobs = var.job == null ? {} : {
    writer = { schedule = var.job.run_schedule, command = ["run", "--init", "--no-lifecycle"], files = lookup(var.config, "writer", {}) }
    pruner = { schedule = var.job.lifecycle_schedule, command = ["lifecycle"], files = lookup(var.config, "pruner", {}) }
  }
  job_count = var.job == null ? 0 : 1
  # A token that cannot be had costs one store, and not the backup.
  fetch_tokens = join("\n", [
    for file, audience in var.token_audiences :
    "aws sts get-web-identity-token --audience '${audience}' --signing-algorithm RS256 --duration-seconds 3600 --query WebIdentityToken --output text > /run/holdfast/tokens/.${file} && mv /run/holdfast/tokens/.${file} /run/holdfast/tokens/${file} || echo 'no token for ${file}' >&2"
  ])
  # Writes the configuration, which tasks of ECS cannot mount, and the first tokens.
  prepare = join("\n", [
    "set -eu",
    "umask 022",
    "mkdir -p /run/holdfast/tokens /run/holdfast/state",
    "chmod 1777 /run/holdfast/state",
    "for name in $HOLDFAST_FILES; do printenv \"HOLDFAST_FILE_$name\" > \"/run/holdfast/$(printenv \"HOLDFAST_NAME_$name\")\"; done",
    local.fetch_tokens,
  ])
  # Tokens last an hour, and a job may take longer: they are fetched anew every half hour until the job has ended.
  renew = join("\n", ["set -u", "while sleep 1800; do", local.fetch_tokens, "done"])
  files = { for role, job in local.jobs : role => { for index, name in sort(keys(job.files)) : tostring(index) => { name = name, text = job.files[name] } } }
  mount = [{ sourceVolume = "holdfast", containerPath = "/run/holdfast", readOnly = false }]
  logs = { for role, job in local.jobs : role => {
    logDriver = "awslogs"
    options = {
      awslogs-group         = aws_cloudwatch_log_group.job[0].name
      awslogs-region        = var.region
      awslogs-stream-prefix = role
    }
  } }
  containers = { for role, job in local.jobs : role => concat(
    [
      {
        name       = "prepare"
        image      = var.job.tools_image
        essential  = false
        entryPoint = ["/bin/sh", "-c"]
        command    = [local.prepare]
        environment = concat(
          [{ name = "AWS_REGION", value = var.region }, { name = "HOLDFAST_FILES", value = join(" ", keys(local.files[role])) }],
          [for index, file in local.files[role] : { name = "HOLDFAST_NAME_${index}", value = file.name }],
          [for index, file in local.files[role] : { name = "HOLDFAST_FILE_${index}", value = file.text }],
        )
        mountPoints      = local.mount
        logConfiguration = local.logs[role]
      },
      {
        name                   = "holdfast"
        image                  = var.job.image
        essential              = true
        command                = job.command
        readonlyRootFilesystem = true
        # Time to publish what was uploaded when the task is stopped.
        stopTimeout = 60
        dependsOn   = [{ containerName = "prepare", condition = "SUCCESS" }]
        environment = [
          { name = "HOLDFAST_CONFIG", value = "/run/holdfast/holdfast.toml" },
          { name = "HOLDFAST_STATE_DIR", value = "/run/holdfast/state" },
          # What does not fit into memory is sorted there: the rest of the file system is read-only.
          { name = "TMPDIR", value = "/run/holdfast/state" },
        ]
        secrets = [{ name = "HOLDFAST_PASSWORD", valueFrom = var.job.password_secret }]
        mountPoints = concat(local.mount, [
          for name, volume in var.job.volumes : { sourceVolume = name, containerPath = volume.path, readOnly = true }
        ])
        logConfiguration = local.logs[role]
      },
    ],
    length(var.token_audiences) == 0 ? [] : [
      {
        name             = "tokens"
        image            = var.job.tools_image
        essential        = false
        entryPoint       = ["/bin/sh", "-c"]
        command          = [local.renew]
        environment      = [{ name = "AWS_REGION", value = var.region }]
        dependsOn        = [{ containerName = "prepare", condition = "SUCCESS" }]
        mountPoints      = local.mount
        logConfiguration = local.logs[role]
      },
    ],
  ) }
}

resource "aws_cloudwatch_log_group" "job" {
  count             = local.job_count
  name              = "/holdfast/${var.name}"
  retention_in_days = var.job.log_days
  tags              = var.tags
}

resource "aws_ecs_cluster" "job" {
  count = local.job_count
  name  = var.name
  tags  = var.tags
}

resource "aws_ecs_task_definition" "job" {
  for_each                 = local.jobs
  family                   = "${var.name}-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.job.cpu
  memory                   = var.job.memory
  execution_role_arn       = aws_iam_role.execution[0].arn
  task_role_arn            = aws_iam_role.this[each.key].arn
  container_definitions    = jsonencode(local.containers[each.key])
  tags                     = var.tags
  ephemeral_storage {
    size_in_gib = var.job.disk_gib
  }
  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "X86_64"
  }
  volume {
    name = "holdfast"
  }
  dynamic "volume" {
    for_each = var.job.volumes
    content {
      name = volume.key
      efs_volume_configuration {
        file_system_id     = volume.value.file_system_id
        transit_encryption = "ENABLED"
        authorization_config {
          access_point_id = volume.value.access_point_id
          iam             = "DISABLED"
        }
      }
    }
  }
}

resource "aws_iam_role" "execution" {
  count              = local.job_count
  name               = "${var.name}-execution"
  description        = "Holdfast: starts the containers of the job"
  assume_role_policy = templatefile("${path.module}/policies/service_trust.json.tftpl", { service = "ecs-tasks.amazonaws.com", account_id = var.account_id })
  tags               = var.tags
}

resource "aws_iam_role_policy" "execution" {
  count = local.job_count
  name  = "holdfast"
  role  = aws_iam_role.execution[0].id
  policy = templatefile("${path.module}/policies/execution.json.tftpl", {
    password_secret = var.job.password_secret
    log_group_arn   = aws_cloudwatch_log_group.job[0].arn
  })
}

resource "aws_iam_role" "scheduler" {
  count              = local.job_count
  name               = "${var.name}-scheduler"
  description        = "Holdfast: starts the job when it is due"
  assume_role_policy = templatefile("${path.module}/policies/service_trust.json.tftpl", { service = "scheduler.amazonaws.com", account_id = var.account_id })
  tags               = var.tags
}

resource "aws_iam_role_policy" "scheduler" {
  count = local.job_count
  name  = "holdfast"
  role  = aws_iam_role.scheduler[0].id
  policy = templatefile("${path.module}/policies/scheduler.json.tftpl", {
    task_arns   = [for role in keys(local.jobs) : "arn:aws:ecs:${var.region}:${var.account_id}:task-definition/${var.name}-${role}:*"]
    cluster_arn = aws_ecs_cluster.job[0].arn
    role_arns   = concat([aws_iam_role.execution[0].arn], [for role in keys(local.jobs) : aws_iam_role.this[role].arn])
    queue_arn   = aws_sqs_queue.failures[0].arn
  })
}

# What could not be started lies here: a job that never ran tells nobody.
resource "aws_sqs_queue" "failures" {
  count                     = local.job_count
  name                      = "${var.name}-failures"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
  tags                      = var.tags
}

resource "aws_scheduler_schedule_group" "job" {
  count = local.job_count
  name  = var.name
  tags  = var.tags
}

resource "aws_scheduler_schedule" "job" {
  for_each                     = local.jobs
  name                         = "${var.name}-${each.key}"
  group_name                   = aws_scheduler_schedule_group.job[0].name
  state                        = var.job.enabled ? "ENABLED" : "DISABLED"
  schedule_expression          = each.value.schedule
  schedule_expression_timezone = var.job.timezone
  flexible_time_window {
    mode                      = "FLEXIBLE"
    maximum_window_in_minutes = 15
  }
  target {
    arn      = aws_ecs_cluster.job[0].arn
    role_arn = aws_iam_role.scheduler[0].arn
    ecs_parameters {
      task_definition_arn = aws_ecs_task_definition.job[each.key].arn
      launch_type         = "FARGATE"
      task_count          = 1
      network_configuration {
        subnets          = var.job.subnets
        security_groups  = var.job.security_groups
        assign_public_ip = var.job.assign_public_ip
      }
    }
    retry_policy {
      maximum_event_age_in_seconds = 3600
      maximum_retry_attempts       = 5
    }
    dead_letter_config {
      arn = aws_sqs_queue.failures[0].arn
    }
  }
}
